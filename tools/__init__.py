"""What make calls around runs. Only this package knows the papers."""
