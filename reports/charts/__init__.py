"""Charts of runs and experiments, as Vega-Lite made by Altair: one source for the page and for static pictures."""
