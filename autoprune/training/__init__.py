"""The training loop: fine-tuning of networks, with or without labels and a teacher."""
