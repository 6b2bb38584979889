"""Reports: HTML pages, charts, image grids and run folders."""
