//! Tests of the intent.
