"""One module for each way of sampling; a `System` names the class that it needs."""
