//! Pure geography: fixes in, reports and crossings out.
