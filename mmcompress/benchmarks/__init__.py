"""Many runs that make one table: of our recipes, of other libraries, of papers."""
