//! Tables and properties of the planner.
