"""The Hugging Face Hub: model cards, publishing, what there is to download, other people's checkpoints converted."""
