"""The WIPO-Alpha collection of patents, an XML file each, as labelled splits.

read  files listed, parsed in parallel, cached
xml   one file to a document; entities stay inert
"""
