"""Other libraries: what each asks for, and how it stores and reads back."""
