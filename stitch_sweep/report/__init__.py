"""The report: a web page, figures and tables of one experiment folder or several.

`writing.analyze` writes a report. `reading.py` and `merging.py` read and merge folders, `findings.py`
runs the analyses, `summary.py` and `doubts.py` put them into sentences. `tables/` and `page/` lay them
out, `figures.py` lists the charts, `files.py` writes everything, `terminal.py` prints the summary.
"""
