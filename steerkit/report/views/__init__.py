"""Notebook views: what an object shows of itself behind `_repr_html_`, as HTML and SVG that load nothing.

A class asks for its view by name (`core.registry.VIEWS`), so that what is below need not know how it is shown.
"""
