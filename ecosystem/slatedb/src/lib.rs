//! SlateDB over an encrypted object store.
