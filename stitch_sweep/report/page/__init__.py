"""The report's web page: one HTML file that needs no other file and no network."""
