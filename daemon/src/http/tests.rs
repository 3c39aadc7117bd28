//! Tests of the routes, with an engine that the test plays.
