"""What people look at: tables, figures, TensorBoard, HTML."""
