//! Plans are carried out on a toy cluster until nothing is left to do.

mod properties;
mod scenarios;
mod toy;
mod view;
