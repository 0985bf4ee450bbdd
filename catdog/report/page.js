"use strict";
// The gallery: masks of the probe images, drawn on canvases. All data is in the page.
(() => {
  const FRAME = 450; // milliseconds per epoch while playing
  const at = (id) => document.getElementById(id);

  const source = at("gallery-data");
  if (!source) return;
  const data = JSON.parse(source.textContent);
  const colours = Uint8Array.from(data.colours.match(/../g), (pair) => parseInt(pair, 16));
  const variants = [...new Set(data.trials.map((trial) => trial.variant))];
  const images = data.probes.map((probes) => probes.images.map((src) => Object.assign(new Image(), { src })));
  const sides = ["a", "b"].map((name) => ({ name, trial: null, place: null, masks: null, probes: [] }));
  let timer = null;

  const make = (tag, properties, ...children) => {
    const element = Object.assign(document.createElement(tag), properties);
    element.append(...children);
    return element;
  };
  const trialsOf = (variant) => data.trials.filter((trial) => trial.variant === variant);
  const epochsOf = (trial) => trial.predicted.length;
  const chosenOf = (trial) => Math.min(trial.chosen ?? Infinity, epochsOf(trial) - 1);
  const shown = () => sides.filter((side) => side.trial && (side.name === "a" || at("compare").checked));

  // Return how many trials with these probe images, and how many of them get each wrong in their chosen epoch.
  function missesOf(set) {
    const { labels } = data.probes[set];
    const trials = data.trials.filter((trial) => trial.probes === set);
    const wrong = labels.map((label, probe) =>
      trials.filter((trial) => trial.predicted[chosenOf(trial)][probe] !== label).length);
    return { wrong, of: trials.length };
  }
  const misses = data.probes.map((_, set) => missesOf(set));

  // Return a trial's masks at one place as bytes; inflated only when it is chosen.
  async function inflate(place) {
    const packed = Uint8Array.from(atob(place.masks), (letter) => letter.charCodeAt(0));
    const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("deflate"));
    return new Uint8Array(await new Response(stream).arrayBuffer());
  }

  function fillSeeds(side) {
    const seeds = at(`seed-${side.name}`);
    const before = seeds.value;
    const trials = trialsOf(at(`variant-${side.name}`).value);
    seeds.replaceChildren(...trials.map((trial) =>
      make("option", { value: String(trial.seed), textContent: trial.best ? `${trial.seed} (best run)` : trial.seed })));
    const best = trials.find((trial) => trial.best) || trials[0];
    seeds.value = trials.some((trial) => String(trial.seed) === before) ? before : String(best.seed);
  }

  // Offer the trial's places, and return the one to show: as before, if the trial has it.
  function fillPlaces(side, { places }) {
    const select = at(`place-${side.name}`);
    const chosen = places.find(({ place }) => place === select.value) || places[0];
    select.replaceChildren(...places.map(({ place, shape }) =>
      make("option", { value: place, textContent: `${place}, ${shape[3]} × ${shape[4]}` })));
    select.value = chosen.place;
    select.parentElement.hidden = places.length === 1;
    return chosen;
  }

  async function choose(side) {
    const variant = at(`variant-${side.name}`).value;
    const seed = Number(at(`seed-${side.name}`).value);
    const trial = data.trials.find((one) => one.variant === variant && one.seed === seed);
    const place = fillPlaces(side, trial);
    side.wanted = place;
    const masks = await inflate(place);
    if (side.wanted !== place) return; // another was chosen meanwhile
    Object.assign(side, { trial, place, masks });
    build(side);
    at("epoch").max = String(Math.max(...shown().map((one) => epochsOf(one.trial))) - 1);
    draw();
  }

  function build(side) {
    const masks = side.place.shape[2];
    const place = side.place.place === "head" ? "" : `, ${side.place.place}`;
    const title = make("h3", { textContent: `${side.trial.variant}, seed ${side.trial.seed}${place}` });
    side.line = make("p");
    side.labels = data.probes[side.trial.probes].labels;
    side.probes = side.labels.map((label) => {
      const name = data.classes[label];
      const canvases = Array.from({ length: masks + 1 }, (_, position) => {
        const canvas = make("canvas", { width: data.side, height: data.side });
        canvas.setAttribute("role", "img");
        canvas.setAttribute("aria-label", position ? `${name}, mask ${position}` : `${name}, the image`);
        return canvas;
      });
      const caption = make("figcaption");
      const tiles = make("div", { className: "tiles" }, ...canvases);
      return { canvases, caption, figure: make("figure", { className: "probe" }, tiles, caption) };
    });
    const { wrong } = misses[side.trial.probes];
    const order = [...wrong.keys()].sort((one, other) => wrong[other] - wrong[one]); // those that most get wrong first
    const probes = make("div", { className: "probes" }, ...order.map((probe) => side.probes[probe].figure));
    probes.style.setProperty("--tiles", String(masks + 1));
    side.ends = ["low", "high"].map(() => make("span"));
    const legend = make("p", { className: "legend" }, side.ends[0], make("span", { className: "scale" }), side.ends[1]);
    at(`panel-${side.name}`).replaceChildren(title, side.line, probes, legend);
  }

  // Return the positions in the colour scale of the 256 values of a mask: absolute, or over the image's own range.
  function scaleOf({ top }, [low, high]) {
    const own = at("scale").value === "own";
    return Uint8Array.from({ length: 256 }, (_, byte) =>
      own ? byte : Math.round(255 * Math.min(1, Math.max(0, (low + (high - low) * byte / 255) / top))));
  }

  function paint(canvas, image, bytes, scale, height, width) {
    const pen = canvas.getContext("2d");
    pen.globalAlpha = 1;
    pen.clearRect(0, 0, canvas.width, canvas.height);
    const alone = at("view").value === "alone";
    if (!bytes || !alone) pen.drawImage(image, 0, 0, canvas.width, canvas.height);
    if (!bytes) return;
    const pixels = new ImageData(width, height);
    bytes.forEach((value, cell) => {
      pixels.data.set(colours.subarray(3 * scale[value], 3 * scale[value] + 3), 4 * cell);
      pixels.data[4 * cell + 3] = 255;
    });
    const small = make("canvas", { width, height });
    small.getContext("2d").putImageData(pixels, 0, 0);
    pen.globalAlpha = alone ? 1 : Number(at("opacity").value) / 100;
    pen.imageSmoothingEnabled = false; // a cell is one position of the feature map
    pen.drawImage(small, 0, 0, canvas.width, canvas.height);
  }

  function caption(side, epoch, probe) {
    const taken = side.trial.predicted[epoch][probe];
    const right = taken === side.labels[probe];
    const word = right ? "✓ predicted" : `✗ predicted ${data.classes[taken]}`;
    const [low, high] = side.place.ranges[epoch][probe].map((value) => Number(value.toPrecision(3)));
    const { wrong, of } = misses[side.trial.probes];
    side.probes[probe].figure.classList.toggle("missed", !right);
    side.probes[probe].caption.replaceChildren(
      `${data.classes[side.labels[probe]]}: `,
      make("span", { className: right ? "right" : "wrong", textContent: word }),
      make("span", { className: "range", textContent: ` · from ${low} to ${high} · chosen epochs: wrong in ${wrong[probe]} of ${of} trials` }));
    return right;
  }

  function drawSide(side, wanted) {
    const [epochs, probes, masks, height, width] = side.place.shape;
    const epoch = Math.min(wanted, epochs - 1);
    let right = 0;
    side.probes.forEach(({ canvases }, probe) => {
      const scale = scaleOf(side.place, side.place.ranges[epoch][probe]);
      canvases.forEach((canvas, position) => {
        const start = ((epoch * probes + probe) * masks + position - 1) * height * width;
        const bytes = position ? side.masks.subarray(start, start + height * width) : null;
        paint(canvas, images[side.trial.probes][probe], bytes, scale, height, width);
      });
      right += caption(side, epoch, probe);
    });
    const accuracy = side.trial.accuracy[epoch];
    const measured = accuracy == null ? "" : `Validation ${accuracy.toFixed(2)} %, `;
    const chosen = epoch === side.trial.chosen ? ", the chosen epoch" : "";
    const own = at("scale").value === "own";
    const ends = own ? "each image’s own range" : `0 to ${side.place.top}`;
    side.ends[0].textContent = own ? "the image’s lowest" : "0";
    side.ends[1].textContent = own ? "its highest" : side.place.top;
    side.line.textContent =
      `Epoch ${epoch}${chosen}: ${measured}${right} of ${probes} probe images right. Colours: ${ends}.`;
    return `${side.trial.variant} seed ${side.trial.seed}: ${measured}${right} of ${probes} right${chosen}`;
  }

  function draw() {
    const epoch = Number(at("epoch").value);
    at("epoch-value").textContent = `${epoch} of ${at("epoch").max}`;
    const lines = shown().filter((side) => side.masks && side.probes.length).map((side) => drawSide(side, epoch));
    at("state").textContent = `Epoch ${epoch}. ${lines.join("; ")}.`;
  }

  function pause() {
    clearInterval(timer);
    timer = null;
    at("play").textContent = "Play";
    at("state").setAttribute("aria-live", "polite");
  }

  function play() {
    const slider = at("epoch");
    if (timer !== null) return pause();
    if (slider.value === slider.max) slider.value = "0";
    at("play").textContent = "Pause";
    at("state").setAttribute("aria-live", "off"); // do not announce every epoch while playing
    draw();
    timer = setInterval(() => {
      slider.value = String(Number(slider.value) + 1);
      if (slider.value === slider.max) pause();
      draw();
    }, FRAME);
  }

  function toggle() {
    const two = at("compare").checked;
    at("second").hidden = at("panel-b").hidden = !two;
    at("panels").classList.toggle("two", two);
    return two ? choose(sides[1]) : draw();
  }

  async function begin() {
    await Promise.all(images.flat().map((image) => image.decode()));
    sides.forEach((side, position) => {
      const select = at(`variant-${side.name}`);
      select.replaceChildren(...variants.map((name) => make("option", { value: name, textContent: name })));
      select.value = variants[Math.max(0, variants.length - 1 - position)];
      if (variants.includes("multi-attention")) {
        const others = variants.filter((name) => name !== "multi-attention");
        select.value = position && others.length ? others[0] : "multi-attention";
      }
      fillSeeds(side);
      select.addEventListener("change", () => { fillSeeds(side); choose(side); });
      at(`seed-${side.name}`).addEventListener("change", () => choose(side));
      at(`place-${side.name}`).addEventListener("change", () => choose(side));
    });
    await choose(sides[0]);
    at("epoch").addEventListener("input", () => { if (timer !== null) pause(); draw(); });
    at("opacity").addEventListener("input", draw);
    at("scale").addEventListener("change", draw);
    at("view").addEventListener("change", () => { at("opacity").disabled = at("view").value === "alone"; draw(); });
    at("play").addEventListener("click", play);
    at("chosen").addEventListener("click", () => {
      pause();
      at("epoch").value = String(chosenOf(sides[0].trial));
      draw();
    });
    at("compare").addEventListener("change", toggle);
    at("epoch").value = String(chosenOf(sides[0].trial));
    draw();
    at("live").hidden = false;
    document.documentElement.dataset.gallery = "ready";
  }

  begin().catch((error) => {
    at("state").className = "notice";
    at("state").textContent = `The masks cannot be shown in this browser: ${error.message}`;
  });
})();
