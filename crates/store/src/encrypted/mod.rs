//! An object store that seals what is written through it, and opens what is read.
