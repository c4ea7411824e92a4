"""Reports: tables, figures, TensorBoard, HTML."""
