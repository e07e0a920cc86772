"""The demo collection: documentation of the installed Python, with judged questions."""
