//! Tables and properties of the planner: one file per question, on a simulated source and target.

mod accept;
mod attach;
mod compare;
mod consolidated;
mod deletes;
mod elsewhere;
mod held;
mod held_there;
mod lacking;
mod laws;
mod leave_out;
mod merged;
mod names;
mod omitted;
mod order;
mod room;
mod rotation;
pub(crate) mod sim;
mod staying;
mod unlisted;
mod upon;
