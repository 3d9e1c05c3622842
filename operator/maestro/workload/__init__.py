"""What the controllers share: the pods and Jobs that Runs run in."""
