"""Values that several test files use."""

SHORT = ("trainer.max_epochs=1", "data.source.test_size=1500", "data.val_size=100", "trainer.accelerator=cpu")
"""One short epoch of a cell on digits: 197 images to train on, 100 to validate, 1,500 to test."""
