"""Charts: each is described once, without a drawing library, and drawn for the page or for files.

`elements.py` defines the descriptions. `matrices.py`, `ladder.py`, `networks.py`, `representations.py`,
`search.py` and `trajectories.py` describe the charts. `plotly_renderer.py` draws a description for a web
page; `figures.py` draws it with matplotlib and writes PNG and PDF files.
"""
