//! Pushes from the outside: outcomes, restarts, kills, and what the online store and the lake hold in the end.

mod kills;
mod outcomes;
mod refusals;
mod restarts;
mod support;
