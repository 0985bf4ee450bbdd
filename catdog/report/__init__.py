"""How a run is shown: page, figures, tables, terminal. The only room that imports matplotlib and jinja2."""
