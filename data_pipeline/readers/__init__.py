"""One reader per kind of corpus: each turns one input file into documents and counted drops."""
