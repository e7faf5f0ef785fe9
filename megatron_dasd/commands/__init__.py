"""The one command ``dasd``, which has every other command below it."""
