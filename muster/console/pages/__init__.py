"""The pages, a module each. Every one takes the `Console` and draws into the frame."""
