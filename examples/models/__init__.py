"""Small trained models, each made by the command of its file."""
