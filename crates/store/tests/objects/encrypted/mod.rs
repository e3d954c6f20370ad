//! The object store that seals what is written through it.

mod accounts;
mod copies;
mod key_life_cycle;
mod lists;
mod marker;
mod ranges;
mod replaced_meanwhile;
mod uploads;
mod watched;
mod whole_objects;
mod world;
mod wrong_places;
