"""The report of a comparison: one HTML page that opens from disk, with its tables and pictures as files beside it.

``parts`` is what a page is made of; ``headline``, ``accuracy``, ``studies``, ``samples`` and ``provenance`` build its
sections; ``page`` has their order and writes them. Deliberately absent: any figure of its own; what is shown was
computed by ``clrft.analysis``.
"""
