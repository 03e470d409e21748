"""Tables of the report: each is described once, and comes out as HTML, CSV and LaTeX."""
