"""From result lines to tables and pages. Reads files only: nothing here imports torch.

``lines`` reads and appends result lines, ``runs`` reads run folders, ``rows`` and ``pairs`` average lines over seeds,
``tables`` writes them out, ``paper`` holds the paper's own figures, ``paper_table`` puts ours beside a whole table of
them, ``titles`` says both of one recipe, ``readme`` puts tables between markers, and ``page`` writes one self-contained
HTML page. What draws needs matplotlib, so import the module you want.
"""
