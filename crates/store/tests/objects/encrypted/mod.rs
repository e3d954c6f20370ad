//! The object store that seals what is written through it.

#![allow(clippy::single_range_in_vec_init, reason = "one range is asked for")]

mod accounts;
mod copies;
mod key_life_cycle;
mod lists;
mod marker;
mod ranges;
mod replaced_meanwhile;
mod rotation;
mod uploads;
mod watched;
mod whole_objects;
mod world;
mod wrong_places;
