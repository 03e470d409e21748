"""The report: a web page, figures and tables of one experiment folder or several.

`writing.analyze` writes a report. `reading.py` and `merging.py` read and merge folders, `findings.py`
runs the analyses, `summary.py` and `doubts.py` describe the results in sentences. `tables/` and `page/`
format them, `figures.py` lists the charts, `files.py` writes the files, `terminal.py` prints the summary.
"""
