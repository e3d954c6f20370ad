//! Blocks and records in an object store: what a service keeps that outgrew one machine.
