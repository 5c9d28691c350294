"""Did it dance? A result measured against its picture and the poses that were asked for: figures, words, pictures."""
