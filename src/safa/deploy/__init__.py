"""A trained network in use: rebuilt from its run, over files, and in formats other programs read.

``network.load_run`` gives the network of a run, ``predict.predict_paths`` names the classes of image files,
``export.export`` writes safetensors, ONNX or PT2, and ``formats.load_exported`` reads them back.
"""
