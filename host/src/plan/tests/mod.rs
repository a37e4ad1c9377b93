//! Tables and properties of the planner: one file per question, on a simulated source and target.

mod accept;
mod compare;
mod consolidated;
mod deletes;
mod laws;
mod leave_out;
mod names;
mod order;
mod room;
mod rotation;
mod sim;
