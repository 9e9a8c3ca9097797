project = "example-project"
