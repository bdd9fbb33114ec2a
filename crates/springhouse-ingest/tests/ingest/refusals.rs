//! Wrong rows and wrong pushes, with what is said of each.
