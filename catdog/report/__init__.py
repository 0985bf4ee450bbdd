"""How a run is shown: page, figures, tables, terminal. The only package that imports matplotlib and jinja2."""
