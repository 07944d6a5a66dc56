"""Studies that answer a question with numbers: what is compared, how it is measured, and the page it goes to."""
