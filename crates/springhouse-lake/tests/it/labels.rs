//! What is wrong with labels and files, and what is said about it.
