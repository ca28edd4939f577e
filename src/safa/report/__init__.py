"""From result lines to tables and pages. Reads files only: nothing here imports torch.

``lines`` reads and appends result lines, ``runs`` reads run folders, ``tables`` groups lines into rows, ``paper``
holds the paper's own figures, ``paper_table`` puts ours beside a whole table of them, ``titles`` says both of one
recipe, ``readme`` puts tables between markers, and ``page`` writes one self-contained HTML page. Only ``page``
needs matplotlib, so import the module you want.
"""
