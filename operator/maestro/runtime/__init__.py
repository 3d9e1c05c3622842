"""What every long-running part stands on: workqueue, controller, leader election, health, metrics, clock, logging."""
