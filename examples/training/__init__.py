"""What the scripts share: arguments, models, the Trainer, output folders, results and costs."""
