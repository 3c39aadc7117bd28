//! Live looks at the kernel for the API's looking routes.
