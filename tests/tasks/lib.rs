//! Nothing: a package with a feature has a library.
