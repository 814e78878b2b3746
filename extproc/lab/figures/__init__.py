"""Draw tables, plots and pages, in one way for all reports."""
