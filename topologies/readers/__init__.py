"""One module for each file format; all of them return what the file states, unchecked, as a `SourceNetwork`."""
